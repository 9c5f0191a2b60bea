from __future__ import annotations

import argparse
import sys

from tests.services import CI, SERVICES, Service, Unavailable, debian


def start(service: Service) -> str:
    if not service.listens() and not service.installed and debian.can_install():
        debian.install(service.packages)
    return service.start()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.services")
    parser.add_argument("command", choices=["start", "status"])
    starting = parser.parse_args().command == "start"

    if starting:
        debian.prepare_build()
    absent = []
    for service in SERVICES.values():
        try:
            found = start(service) if starting else service.probe()
        except (Unavailable, OSError) as error:
            absent.append(service)
            found = f"MISSING, {error} ({service.remedy})"
        print(f"{service.name:<14} {service.port:>5}  {found}", flush=True)
    if absent and starting:
        verdict = "which CI does not allow" if CI else "their tests will be skipped"
        print(f"Missing: {', '.join(service.name for service in absent)}; {verdict}.")
    return 1 if absent and CI else 0


if __name__ == "__main__":
    sys.exit(main())
