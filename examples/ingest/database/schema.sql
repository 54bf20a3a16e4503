-- Every change of the table orders becomes an event of the topic orders/<id>, in the transaction that makes it.

CREATE TABLE orders (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  state text NOT NULL
);

-- What move.py has not moved yet.
CREATE TABLE outbox (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic text NOT NULL,
  event text NOT NULL,
  data text NOT NULL
);

CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  changed record;
BEGIN
  IF TG_OP = 'DELETE' THEN changed := OLD; ELSE changed := NEW; END IF;
  INSERT INTO outbox (topic, event, data)
  VALUES (TG_TABLE_NAME || '/' || changed.id, lower(TG_OP), row_to_json(changed));
  PERFORM pg_notify('outbox', ''); -- heard when the transaction is committed
  RETURN NULL;
END $$;

CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION tell();
