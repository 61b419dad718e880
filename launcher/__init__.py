"""Everything on one machine: a Redis of its own and both services, as child processes of one launcher."""
