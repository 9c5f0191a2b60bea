import re

from tests.services.base import HOST, Service, Unavailable, run


class RabbitMQ(Service):
    name = "rabbitmq"
    port = 5672
    executable = "rabbitmq-server"
    packages = ("rabbitmq-server",)
    boot_seconds = 120

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{HOST}:{self.port}//"

    def probe(self) -> str:
        greeting = self.ask(b"AMQP\x00\x00\x09\x01")
        version = re.search(rb"versionS....([\d.]+)", greeting, re.DOTALL)
        if version is None:
            raise Unavailable("it does not answer an AMQP 0-9-1 header")
        return version[1].decode()

    def launch(self) -> None:
        run(["rabbitmq-server", "-detached"])
