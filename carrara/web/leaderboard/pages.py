"""The static site of the database's records, written again in the background after each change.

The served site has one page more than the written one: a form that submits records.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import warnings
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from carrara.bench.predictions import predictions_path
from carrara.bench.site.write import write_site
from carrara.core.errors import CarraraError
from carrara.core.printable import one_line
from carrara.core.record import read_record, read_records
from carrara.web.leaderboard.database import Database, StoredRecord

RETRY_SECONDS = 5.0
ASSETS = Path(__file__).parent / "assets"
LINK = '<a href="submit.html">Submit</a>\n</nav>'


class SitePages:
    """The pages: a folder with the site of the records, replaced as a whole when records come or go."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.work = Path(tempfile.mkdtemp(prefix="carrara-leaderboard-"))
        self.results = self.work / "results"
        self.results.mkdir()
        self.folder = self.work / "site-0"
        self._former: Path | None = None
        self._paths: dict[int, Path] = {}
        self._number = 0
        self._changed, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="pages", daemon=True)

    def start(self) -> None:
        """Write the site, and again after each `request_update`, in the background."""
        self.request_update()
        self._thread.start()

    def stop(self) -> None:
        """End the background thread and remove the folder."""
        self._stopped.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join()
        shutil.rmtree(self.work, ignore_errors=True)

    def request_update(self) -> None:
        """Let the site be written again soon; several requests at once are one."""
        self._changed.set()

    def update(self) -> None:
        """Write the site of the records that the database has now, and show it."""
        self._copy_records()
        self._number += 1
        folder = self.work / f"site-{self._number}"
        write_site(folder, list(read_records(self.results)), self.results)
        shutil.copytree(ASSETS, folder, dirs_exist_ok=True)
        index = folder / "index.html"
        index.write_text(index.read_text("utf-8").replace("</nav>", LINK, 1), "utf-8")
        former, self._former, self.folder = self._former, self.folder, folder
        if former is not None:  # the one before may still be read from
            shutil.rmtree(former, ignore_errors=True)

    def find(self, path: str) -> Path | None:
        """Return the file of the site at a path of an address; None where there is none."""
        try:
            file = (self.folder / (path or "index.html")).resolve()
            return file if file.is_relative_to(self.folder.resolve()) and file.is_file() else None
        except (OSError, ValueError):  # a name that is too long, or has a zero in it
            return None

    def _copy_records(self) -> None:
        """Bring the folder of results to the state of the database."""
        with self.database.session() as session:
            ids = set(session.scalars(select(StoredRecord.id)))
        for record_id in self._paths.keys() - ids:
            path = self._paths.pop(record_id)
            path.unlink(missing_ok=True)
            path.with_suffix(".predictions.parquet").unlink(missing_ok=True)
        for record_id in sorted(ids - self._paths.keys()):
            with self.database.session() as session:
                stored = session.get(StoredRecord, record_id)
            if stored is None:
                continue
            draft = self.work / "draft.json"
            draft.write_bytes(stored.record)
            try:
                record = read_record(draft)
            except CarraraError as problem:  # of a former version of the program
                warnings.warn(f"record {record_id} is left out: {one_line(str(problem))}", stacklevel=2)
                continue
            path = record.path(self.results)
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.replace(path)
            predictions_path(record, self.results).write_bytes(stored.predictions)
            self._paths[record_id] = path

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._changed.wait()
            self._changed.clear()
            if self._stopped.is_set():
                return
            try:
                self.update()
            except (SQLAlchemyError, CarraraError, OSError, ArithmeticError, LookupError, TypeError, ValueError) as e:
                reason = one_line(str(e).partition("\n")[0])[:200]
                warnings.warn(f"the pages stay as they were ({reason}); next try in {RETRY_SECONDS:g} s", stacklevel=2)
                self._changed.set()
                self._stopped.wait(RETRY_SECONDS)
