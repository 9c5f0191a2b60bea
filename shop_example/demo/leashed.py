"""``python -m shop_example.demo.leashed …``: as manage.py, with messages in whole files, and until standard
input ends, which is a pipe that only ends with the demo."""

import os
import sys
import threading

from django.core.management import execute_from_command_line

from shop_example.demo import whole_files  # noqa: F401
from shop_example.outside_service import end_with_standard_input

if __name__ == "__main__":
    threading.Thread(target=end_with_standard_input, daemon=True).start()
    os.environ["DJANGO_SETTINGS_MODULE"] = "shop_example.settings"
    execute_from_command_line(["manage.py", *sys.argv[1:]])
