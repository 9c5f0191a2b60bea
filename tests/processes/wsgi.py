"""What gunicorn serves."""

import os

from django.core.wsgi import get_wsgi_application
from django.db import connections
from django.urls import get_resolver

application = get_wsgi_application()
# Before the workers fork, so that each need not import the project.
_ = get_resolver().url_patterns

if os.environ.get("SERVED_AS_MYSQL") == "yes":
    # MariaDB understands all that the store says to a MySQL.
    type(connections["default"]).mysql_is_mariadb = False
