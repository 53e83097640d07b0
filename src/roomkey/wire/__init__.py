"""Everything as bytes: session data, secret keys, cards, cookies. Knows no store and no session.

codec       session data to bytes and back
kinds       values of subclasses as their base type, and what an error says of others
moments     a datetime with its zone, as plain fields
depth       how deep extensions lie in each other
facts       what a session knows beside its data
about       what a list shows of a session
keys        secret keys: derive, sign, verify
seal        authenticated encryption under them
envelope    session data on its way into and out of a store: as it is, or sealed
cookies     the cookie in raw headers
card_header  the header that has the card in the place of a cookie
user_ids    a user's ID as text
"""
