from tests.services.base import HOST, PASSWORD, USER, Service, Unavailable, as_user, run

DESCRIBE = "SELECT current_setting('server_version'), current_setting('max_connections') || ' connections'"

CREATE_ACCOUNT = f"""
DO $$ BEGIN CREATE ROLE {USER}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
ALTER ROLE {USER} LOGIN CREATEDB PASSWORD '{PASSWORD}';
GRANT pg_signal_backend TO {USER};
"""


def describe(port: int) -> str:
    return run(
        [
            "psql",
            "-XAtw",
            "-F",
            ", ",
            "-h",
            HOST,
            "-p",
            str(port),
            "-U",
            USER,
            "-d",
            "postgres",
            "-c",
            DESCRIBE,
        ],
        seconds=10,
        env={"PGPASSWORD": PASSWORD, "PGCONNECT_TIMEOUT": "5"},
    )


class PostgreSQL(Service):
    name = "postgresql"
    port = 5432
    executable = "pg_ctlcluster"
    packages = ("postgresql",)
    driver = ("psycopg2", "pip install psycopg2-binary")

    def probe(self) -> str:
        return describe(self.port)

    def launch(self) -> None:
        for cluster in run(["pg_lsclusters", "--no-header"]).splitlines():
            version, name, port, *_ = cluster.split()
            if port == str(self.port):
                run(["pg_ctlcluster", "--skip-systemctl-redirect", version, name, "start"])
                return
        raise Unavailable(f"no cluster is configured for port {self.port}")

    def create_account(self) -> None:
        # By the socket: a fresh Debian server lets its own system user in there, and nobody by TCP.
        run(
            as_user(
                "postgres", ["psql", "-Xqw", "-p", str(self.port), "-d", "postgres", "-c", CREATE_ACCOUNT]
            ),
            seconds=10,
        )
