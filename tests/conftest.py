"""What every test shares."""

from hypothesis import HealthCheck, settings

# No test fails for the machine's load: neither by a deadline, nor for slow generation.
settings.register_profile("roomkey", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("roomkey")
