"""The rules of credits: lots, expiry, holds, refunds, debt, transfers, schedules. Pure, like the room it is in.

Not in force yet: no schema brings these commands to the log. They are to become version 2 of the rules.
"""
