"""Everything as bytes: session data, secret keys, cards, cookies. Knows no store and no session.

codec       session data to bytes and back
keys        secret keys: derive, sign, verify
seal        authenticated encryption under them
envelope    session data on its way into and out of a store: as it is, or sealed
cookies     the cookie in raw headers
user_ids    a user's ID as text
"""
