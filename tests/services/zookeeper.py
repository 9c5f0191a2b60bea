from tests.services.base import HOST, Service, Unavailable, spawn

CONFIGURATION = """\
clientPort={port}
clientPortAddress={host}
dataDir={folder}
tickTime=500
maxClientCnxns=0
admin.enableServer=false
4lw.commands.whitelist=srvr,ruok,mntr
"""


class ZooKeeper(Service):
    name = "zookeeper"
    port = 2181
    # Nothing of it is in PATH. Its jar names what else belongs on the class path.
    executable = "/usr/share/zookeeper/bin/zkServer.sh"
    packages = ("zookeeper",)

    @property
    def hosts(self) -> str:
        return f"{HOST}:{self.port}"

    def probe(self) -> str:
        # `srvr` is the one command that every server allows unless told otherwise.
        answer = self.ask(b"srvr").decode(errors="replace")
        if not answer.startswith("Zookeeper version: "):
            raise Unavailable("it does not answer srvr")
        return answer.removeprefix("Zookeeper version: ").partition("-")[0]

    def launch(self) -> None:
        folder = self.folder()
        configuration = folder / "zoo.cfg"
        configuration.write_text(CONFIGURATION.format(port=self.port, host=HOST, folder=folder))
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        spawn(
            ["java", "-Xmx96m", "-cp", "/usr/share/java/zookeeper.jar", main, str(configuration)],
            log=folder / "log",
        )
