"""Django's own would make a user; here there are neither users nor passwords."""

from warehouse_site.management.no_users import NoUsers


class Command(NoUsers):
    pass
