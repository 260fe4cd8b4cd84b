"""Where things live: the home's layout, durable writes, records, artifacts, the database. Knows no stage."""
