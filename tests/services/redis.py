from tests.services.base import HOST, Service, Unavailable, run


class Redis(Service):
    name = "redis"
    port = 6379
    executable = "redis-server"
    packages = ("redis-server",)
    driver = ("django_redis", "pip install django-redis")

    @property
    def url(self) -> str:
        # The last of its sixteen databases: a developer's own keys are in the first, and tests flush.
        return f"redis://{HOST}:{self.port}/15"

    def probe(self) -> str:
        for line in self.ask(b"INFO server\r\n").decode(errors="replace").splitlines():
            if line.startswith("redis_version:"):
                return line.partition(":")[2]
        raise Unavailable("it does not answer INFO")

    def launch(self) -> None:
        folder = str(self.folder())
        keep_nothing = ["--save", "", "--appendonly", "no", "--dir", folder, "--logfile", f"{folder}/log"]
        run(["redis-server", "--daemonize", "yes", "--bind", HOST, "--port", str(self.port), *keep_nothing])
