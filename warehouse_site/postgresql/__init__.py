"""Django's PostgreSQL backend, with a look at the socket where Django asks the server whether it is still there."""
