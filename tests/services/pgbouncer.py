from tests.services.base import HOST, PASSWORD, ROOT, USER, Service, run
from tests.services.postgresql import PostgreSQL, describe

# Few server connections, so that clients do share them. They end a second after their last use:
# `DROP DATABASE`, at the end of a test run, waits five for others to leave and then fails.
CONFIGURATION = """\
[databases]
* = host={host} port={server_port} user={user} password={password}

[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 8
max_client_conn = 400
server_idle_timeout = 1
server_login_retry = 1
ignore_startup_parameters = extra_float_digits
logfile = {folder}/log
pidfile = {folder}/pid
"""


class PgBouncer(Service):
    name = "pgbouncer"
    # Not pgbouncer's own 6432, where Debian's package may run one that knows none of our databases.
    port = 6433
    executable = "pgbouncer"
    packages = ("pgbouncer",)
    driver = PostgreSQL.driver
    boot_seconds = 10

    def probe(self) -> str:
        describe(self.port)
        return "transaction pooling"

    def launch(self) -> None:
        folder = self.folder(owner="postgres")
        configuration = folder / "pgbouncer.ini"
        text = CONFIGURATION.format(
            host=HOST,
            port=self.port,
            server_port=PostgreSQL.port,
            user=USER,
            password=PASSWORD,
            folder=folder,
        )
        # It refuses to stay root.
        configuration.write_text(text + ("user = postgres\n" if ROOT else ""))
        run(["pgbouncer", "--daemon", "--quiet", str(configuration)])
