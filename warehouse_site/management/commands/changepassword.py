"""Django's own would change a password; here there are neither users nor passwords."""

from warehouse_site.management.no_users import NoUsers


class Command(NoUsers):
    pass
