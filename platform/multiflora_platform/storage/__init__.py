"""Floor 2: the database: tables, connections, migrations, and the outbox of events with its followers."""
