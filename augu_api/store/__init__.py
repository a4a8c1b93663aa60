"""What is kept: users, their bans and their counts, in a database."""
