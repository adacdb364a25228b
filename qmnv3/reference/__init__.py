"""QuantGraph in numpy with integer arithmetic, exact for a named runtime."""
