import shutil
from pathlib import Path

from tests.services.base import HOST, PASSWORD, ROOT, USER, Service, run, spawn

CREATE_ACCOUNT = f"""
CREATE USER IF NOT EXISTS '{USER}'@'{HOST}';
ALTER USER '{USER}'@'{HOST}' IDENTIFIED BY '{PASSWORD}';
GRANT ALL PRIVILEGES ON *.* TO '{USER}'@'{HOST}';
"""


class MariaDB(Service):
    name = "mariadb"
    port = 3306
    executable = "mariadbd"
    packages = ("mariadb-server",)
    driver = ("MySQLdb", "on Debian: apt-get install libmariadb-dev pkg-config gcc; pip install mysqlclient")

    def probe(self) -> str:
        describe = "SELECT CONCAT(VERSION(), ', ', @@max_connections, ' connections')"
        connect = ["--protocol=tcp", "-h", HOST, "-P", str(self.port), "-u", USER, "--connect-timeout=5"]
        return run(
            ["mariadb", "--no-defaults", *connect, "-BNe", describe], seconds=10, env={"MYSQL_PWD": PASSWORD}
        )

    def launch(self) -> None:
        if ROOT:
            # The socket's folder goes with a reboot, and only the init script would make it again.
            socket_folder = Path("/run/mysqld")
            socket_folder.mkdir(exist_ok=True)
            shutil.chown(socket_folder, "mysql", "mysql")
        become = ["--user=mysql"] if ROOT else []
        spawn([self.executable, *become], log=self.folder() / "log")

    def create_account(self) -> None:
        # By the socket: a fresh Debian server knows root there by its system user, not by a password.
        run(["mariadb", "--no-defaults", "--protocol=socket", "-u", "root", "-e", CREATE_ACCOUNT], seconds=10)
