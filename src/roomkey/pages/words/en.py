"""English: every text of the pages. The other catalogues have the same keys, and fall back on these."""

from __future__ import annotations

__all__ = ["WORDS"]

# Phrased so that no text depends on a number's plural. A count of hours or days is never 1.
WORDS = {
    "direction": "ltr",  # or "rtl"
    "moment": "%Y-%m-%d %H:%M UTC",  # as for `strftime`
    "hour": "%H:00",
    "just_now": "just now",
    "minutes_ago": "{count} min ago",
    "hours_ago": "{count} h ago",
    "days_ago": "{count} days ago",
    "seconds": "{count} s",
    "minutes": "{count} min",
    "hours": "{count} h",
    "skip": "Skip to the content",
    "back": "Back",
    "log_in": "Log in",
    "log_in_again": "Log in again",
    # a session
    "on": "{name} on {system}",
    "unknown_device": "Unknown device",
    "not_recorded": "Device not recorded",
    "this_device": "This device",
    "last_used": "Last used",
    "began": "Began",
    "address": "IP address",
    "end": "End session",
    "end_of": "End session: {device}",
    "precision": "Last use is known to within {span}. Times are in UTC.",
    "times": "Times are in UTC.",
    # what was just done
    "done_one": "The session has ended.",
    "done_gone": "That session had already ended.",
    "done_all": "Sessions ended: {count}",
    # the devices
    "devices_title": "Your devices",
    "devices_intro": "These devices are logged in to your account. If you do not recognise one, end its session and "
    "change your password.",
    "other_devices": "Other devices",
    "no_others": "You are logged in on this device only.",
    "end_others_title": "End all other sessions",
    "end_others_text": "Every device but this one has to log in again.",
    "end_others": "End all others",
    "too_old_title": "Log in again to end sessions",
    "too_old_text": "Your last log-in was some time ago. To make sure that it is you, log in again, and then come back "
    "to this page.",
    # the operators' page
    "operators_title": "Sessions",
    "now": "Now",
    "live_sessions": "Live sessions",
    "users": "Users logged in",
    "at_least": "at least {count}",
    "cannot_count": "This store cannot count its sessions.",
    "no_answer": "The store does not answer.",
    "counted_at": "Counted {moment}",
    "last_hours": "The last {count} hours",
    "in_process": "In process {process}, since {moment}",
    "log_ins": "Log-ins",
    "log_outs": "Log-outs",
    "revoked": "Revoked",
    "refused": "Refused cookies",
    "lost": "Changes not saved",
    "chart": "Log-ins and log-outs by hour",
    "as_table": "Show as a table",
    "hour_column": "Hour",
    "outages": "Outages of the store",
    "no_outages": "None since {moment}.",
    "outage_began": "Began",
    "outage_lasted": "Lasted",
    "outage_goes_on": "goes on",
    "outage_store": "Store",
    "outage_error": "Error",
    "find_user": "Find a user’s sessions",
    "user_id": "User ID",
    "find": "Find",
    "sessions_of": "Sessions of {user}",
    "none_of": "This user has no live session.",
    "handle": "Handle",
    "your_session": "Your session",
    "end_users_text": "Every session of this user ends. Your own session stays.",
    "end_users": "End all of them",
    # what went wrong
    "anonymous_title": "Please log in",
    "anonymous_text": "This page is for people who are logged in.",
    "stale_title": "This form is out of date",
    "stale_text": "Nothing was changed. Load the page again, and then repeat what you wanted to do.",
    "reload": "Load the page again",
    "forbidden_title": "No access",
    "forbidden_text": "You are not allowed to see this page.",
}
