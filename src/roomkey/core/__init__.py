"""The core: what becomes of a session. It knows stores by their protocol, and neither ASGI nor any framework.

Read it in this order:

intents      what a handler asks of its session beside changing the content
ports        what a session needs of the rest, as protocols
tracked      a dict that notes how it was used
waiting      what a handler waits for: the end, and what others save
messages     messages for the user's next page, or for this one
proofs       what the user of a session has proved, and when
actor        who really sits there, where somebody acts for a user
session      Session: the dict that a handler holds
loaded       what was read, what a commit takes, what was tried, as values
renewal      every rule about time
rules        whose a session is, and how large it may be
tombstones   what a rotation leaves under the old ID
merge        what several requests did to one session, key by key
case         what a commit is decided on, and what is decided, as values
plan         what a commit does, decided by one pure function
unanswered   writes that the store never answered: which of them was done
reply        what the response does with the cookie
agents       user agents as people read them
clients      the client of a request: what a log-in keeps, and whether it is another one by now
state        what one request knows of its session
visitors     what CSRF tokens are bound to where no session is
lent         values that a view of a session has handed out beside it
trails       what rotations leave behind, and what it tells of a session that is not found
endings      sessions are ended while others go on saving them
registry     the sessions in a store: found, listed, ended, purged
committer    what carries plans out
steps        what is done for each kind of plan: one swap in the store
secure       whether the cookies of a response are `Secure`
cards        signed cookie values that were verified lately
beside       what a request brought beside the session that it got
lines        requests of this process that change one session are saved together
unfinished   commits that go on though their requests were cancelled
swaps        plans carried out in a store, and made anew where another request was first
at_once      the commits that most requests need, where nothing waits
turns        requests of this process that lost a swap take turns
tasks        the tasks of one request, which save one after the other
acting       somebody acts for a user: begun, loaded, stopped
transaction  one request's dealings with its session
loader       from a card to a session
nearby       the same from memory, where nobody said that the session has changed
users        Sessions: a user's sessions, listed and revoked
live         what is open, and the sessions that it ends with
deliveries   events for subscribers that are awaited
reporting    events and counts
"""
