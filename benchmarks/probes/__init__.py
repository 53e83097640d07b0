"""What a session library does where it matters, asked over HTTP: `python -m benchmarks.probes`.

`peers` has one small app for each library, set up as its documentation says. All answer the same pages
by GET, in JSON:

- `/about/-`: `{"login": the call that changes the ID at a log-in, "list": how a user's sessions are found}`.
  Each is null where the library has none. `login` is "" where no call is needed.
- `/show/-`: shows the session, as all below do: `{"session": what is in it}`.
- `/write/KEY`: puts 1 under the key.
- `/login/USER`: puts the user under `user_id`, and does nothing else.
- `/enter/USER`: logs the user in as the library says.
- `/logout/-`: logs out as the library says.
- `/slow/KEY`: reads `user_id`, waits at the gate, and puts 1 under the key.
- `/waiting/-`: how many wait at the gate: `{"waiting": 1}`.
- `/open/-`: opens the gate for those who wait.
- `/keep/KIND`: puts a value of that kind under `kept`. `/kept/-` tells whether it is still the same: `{"same": true}`.
- `/list/USER`: how many sessions the user has: `{"sessions": 2}`. `/end/USER` ends them.

`questions` has one probe for each row of the table, `running` the servers, and `deeds` what the pages have in common.
"""
