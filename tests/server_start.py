"""What the server of ``process_server`` does before it is asked for a process."""

from tests import shared_bank

shared_bank.install()
shared_bank.default_bank()
