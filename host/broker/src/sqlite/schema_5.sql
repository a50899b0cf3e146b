-- From schema 4 to schema 5: see schema.sql.
ALTER TABLE log ADD COLUMN live_claim INTEGER;
ALTER TABLE log ADD COLUMN live_from INTEGER;
