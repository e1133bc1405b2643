"""Several trained nets that answer as one."""
