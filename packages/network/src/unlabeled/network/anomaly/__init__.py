"""How far a record lies from normal ones."""
