"""Reading what the models keep, a module for each kind of it."""
