-- From schema 2 to schema 3: see schema.sql.
ALTER TABLE task ADD COLUMN options TEXT;
