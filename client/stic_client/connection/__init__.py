"""How a site reaches its server: enrolment, keys, TLS."""
