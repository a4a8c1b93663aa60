"""The database: users, their bans, and counts of their requests."""
