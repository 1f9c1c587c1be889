"""The trainers: the only place where guidance meets losses."""
