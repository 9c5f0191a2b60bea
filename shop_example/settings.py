"""Settings of the example. Each SHOP_* environment variable is read here, and nowhere else but in faults.py.

SHOP_DATABASE         path of the SQLite file (shop.sqlite3 beside manage.py)
SHOP_DATABASE_URL     a database server instead: postgresql://user:password@host:port/name, or mysql://
SHOP_ATOMIC_REQUESTS  1: every request in a transaction of Django's
SHOP_DEBUG            1: Django's debug pages, and the log on the terminal
SHOP_THROTTLE         requests per caller and period ("10000/min"); "none" for no limit
SHOP_PROVIDER_URL     where the payment provider is (http://127.0.0.1:8010); see provider.py
SHOP_BROKER_URL       a message broker (amqp://user:password@host:5672//); else files beside the database
SHOP_QUEUE_PREFIX     what the names of queues begin with, where several shops share a broker
SHOP_SMS_GATEWAY_URL  where SMS are sent (http://127.0.0.1:8011); see sms_gateway.py
SHOP_LEASE_SECONDS    for how long a card payment, or a message, is its worker's who may have died (30)
SHOP_FAULTS           1: obey the Shop-Fault header; see faults.py
"""

import os
from datetime import timedelta
from pathlib import Path

from shop_example import brokers, databases

BASE_DIR = Path(__file__).resolve().parent.parent

# Known to everybody: fit for an example on one's own machine, and for nothing else.
SECRET_KEY = "an-example-on-a-loopback-address-has-no-secret-to-keep"
DEBUG = os.environ.get("SHOP_DEBUG") == "1"
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]", "testserver"]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "rest_framework.authtoken",
    "idempotency",
    "shop_example",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
if os.environ.get("SHOP_FAULTS") == "1":
    MIDDLEWARE.insert(0, "shop_example.faults.FaultMiddleware")

LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "checkout"
LOGOUT_REDIRECT_URL = "landing-page"

ROOT_URLCONF = "shop_example.urls"
WSGI_APPLICATION = "shop_example.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

SQLITE = Path(os.environ.get("SHOP_DATABASE") or BASE_DIR / "shop.sqlite3")
if os.environ.get("SHOP_DATABASE_URL"):
    DATABASES = {"default": databases.server(os.environ["SHOP_DATABASE_URL"])}
else:
    DATABASES = {"default": databases.sqlite(SQLITE)}
DATABASES["default"]["ATOMIC_REQUESTS"] = os.environ.get("SHOP_ATOMIC_REQUESTS") == "1"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_THROTTLE_CLASSES": ["rest_framework.throttling.UserRateThrottle"],
    # Counted by each process for itself, in its own memory.
    "DEFAULT_THROTTLE_RATES": {
        "user": None
        if os.environ.get("SHOP_THROTTLE") == "none"
        else os.environ.get("SHOP_THROTTLE", "10000/min")
    },
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.PageNumberPagination",
    "PAGE_SIZE": 50,
}

PROVIDER_URL = os.environ.get("SHOP_PROVIDER_URL") or "http://127.0.0.1:8010"
SMS_GATEWAY_URL = os.environ.get("SHOP_SMS_GATEWAY_URL") or "http://127.0.0.1:8011"
ORDER_PAID_QUEUE = f"{os.environ.get('SHOP_QUEUE_PREFIX', '')}order.paid"

IDEMPOTENCY_LEASE = timedelta(seconds=float(os.environ.get("SHOP_LEASE_SECONDS") or 30))
IDEMPOTENCY_UNIQUE_IDS = {
    # So that no day is settled again by mistake when somebody looks into an old one.
    "settlements": {"WINDOW": timedelta(days=400)},
}
if os.environ.get("SHOP_BROKER_URL"):
    IDEMPOTENCY_BROKERS = {"default": brokers.server(os.environ["SHOP_BROKER_URL"])}
else:
    IDEMPOTENCY_BROKERS = {"default": brokers.files(SQLITE.with_suffix(".messages"))}
IDEMPOTENCY_CONSUMERS = {"sms.order-paid": {"QUEUE": ORDER_PAID_QUEUE}}

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"terminal": {"class": "logging.StreamHandler", "filters": ["debug"]}},
    "filters": {"debug": {"()": "django.utils.log.RequireDebugTrue"}},
    "loggers": {"idempotency": {"handlers": ["terminal"], "level": "INFO"}},
}
