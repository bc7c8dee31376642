"""INT8 by NNCF."""
