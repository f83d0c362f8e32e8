"""The DICOMweb services that the app uses (PS3.18: QIDO-RS, WADO-RS, STOW-RS), with failures in plain words."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import requests
from dicomweb_client.web import DICOMwebClient
from pydicom.dataset import Dataset
from requests.adapters import HTTPAdapter
from urllib3.response import BaseHTTPResponse
from urllib3.util.retry import Retry

from maml_app.errors import ArchiveError, ObjectError
from maml_app.imaging.lenient import lenient

PAGE = 1000
TIMEOUT_S = (10, 300)  # to connect, and between two bytes of an answer
BUSY = (429, 503)  # too many requests; not ready, as when it restarts
TRIES, LONGEST_WAIT_S = 5, 10.0  # asked again so often, after so many seconds at most
NO_DICOM = (ValueError, TypeError, KeyError, AttributeError)  # what reading something else as DICOM JSON ends in
BEYOND = (404, 416)  # how some servers say that a page lies beyond the last row
FIELDS = ["PatientID", "StudyDate", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "SeriesDescription"]
FIELDS += ["SeriesNumber", "NumberOfSeriesRelatedInstances"]
ANY_SYNTAX = (("application/dicom", "*"),)  # as stored: nothing is decoded and encoded again on the way


class _Patience(Retry):
    """Ask a busy server again when it says, but never wait longer than `LONGEST_WAIT_S`."""

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        try:
            asked = super().get_retry_after(response)
        except Exception:  # a header that is no time
            asked = None
        return None if asked is None else min(asked, LONGEST_WAIT_S)


class _Adapter(HTTPAdapter):
    def __init__(self) -> None:
        patience = _Patience(
            total=TRIES,
            connect=1,
            read=1,  # a kept connection that the server closed meanwhile
            redirect=5,
            other=0,
            status=TRIES,
            status_forcelist=BUSY,
            allowed_methods=None,  # a busy server has done nothing: storing is asked again too
            backoff_factor=0.5,
            backoff_max=LONGEST_WAIT_S,
            raise_on_status=False,
        )
        super().__init__(pool_maxsize=16, max_retries=patience)

    def send(self, *args: Any, **keywords: Any) -> requests.Response:
        keywords["timeout"] = keywords.get("timeout") or TIMEOUT_S
        return super().send(*args, **keywords)


def session() -> requests.Session:
    """An HTTP session with the user and password of MONAI_LABEL_DICOMWEB_USERNAME and _PASSWORD, where set."""
    made = requests.Session()
    user, password = (os.environ.get(f"MONAI_LABEL_DICOMWEB_{part}", "") for part in ("USERNAME", "PASSWORD"))
    if user and password:
        made.auth = (user, password)
    for scheme in ("http://", "https://"):
        made.mount(scheme, _Adapter())
    return made


class Pacs:
    """A DICOMweb server at an address such as http://127.0.0.1:8042/dicom-web.

    It and every method raise ArchiveError; ObjectError where the server works and one object or series does not come.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        logging.getLogger("dicomweb_client.web").setLevel(logging.WARNING)  # it logs every request as information
        try:
            self._client = DICOMwebClient(url=self.url, session=session())
        except ValueError as error:
            expected = "expected an archive's address such as http://127.0.0.1:8042/dicom-web"
            raise ArchiveError(f"{expected}, got {url!r} ({error})") from None
        self._client.set_http_retry_params(retry=False)

    @contextmanager
    def _asking(self, what: str, gone: str = "") -> Iterator[None]:
        try:
            with lenient():
                yield
        except requests.exceptions.HTTPError as error:
            raise self._refused(what, gone, error) from None
        except requests.exceptions.ConnectionError as error:
            why = "the connection broke off" if "Connection broken" in str(error) else "it cannot be reached"
            raise ArchiveError(f"{self.url}: {what} failed: {why}; is the archive running?") from None
        except requests.exceptions.RequestException as error:
            no_json = isinstance(error, requests.exceptions.JSONDecodeError)
            expected = "expected DICOM, got something else: " if no_json else ""
            raise ObjectError(f"{self.url}: {what} failed: {expected}{error}") from None
        except (*NO_DICOM, OSError) as error:
            raise ObjectError(f"{self.url}: {what} failed: expected DICOM, got something else: {error}") from None

    def _refused(self, what: str, gone: str, error: requests.exceptions.HTTPError) -> ArchiveError:
        answer = error.response
        status = answer.status_code if answer is not None else 0
        text = answer.text.strip()[:200] if answer is not None else ""
        if status in (401, 403):
            names = "MONAI_LABEL_DICOMWEB_USERNAME and MONAI_LABEL_DICOMWEB_PASSWORD"
            return ArchiveError(f"{self.url}: {what} failed: it refused the user ({status}); set {names}")
        if status in BUSY:
            after = answer.headers.get("Retry-After", "") if answer is not None else ""
            later = f"in {after} s" if after.isdigit() else "later"
            return ArchiveError(f"{self.url}: {what} failed: it is busy ({status}) and stays so; try again {later}")
        if status == 404:
            why = gone or "there is no DICOMweb service at this address (404)"
        else:
            why = f"it answered {status} {text}".strip()
        return ObjectError(f"{self.url}: {what} failed: {why}")

    def _search(self, what: str, search: Callable[..., Any], **keywords: Any) -> list[Dataset]:
        """All pages of a search, until one holds nothing new.

        A server may give fewer rows than it was asked for (PS3.18 8.3.4.4), and some give the same ones again.
        """
        found: list[Dataset] = []
        seen: set[str] = set()
        offset = 0
        with self._asking(what):
            while True:
                try:
                    page = search(offset=offset, limit=PAGE, **keywords) or []
                except requests.exceptions.HTTPError as error:
                    if offset and error.response is not None and error.response.status_code in BEYOND:
                        return found
                    raise
                offset += len(page)
                rows = [(_identity(row), row) for row in (_dataset(row) for row in page)]
                new = [(identity, row) for identity, row in rows if identity not in seen]
                if not new:
                    return found
                found += [row for _, row in new]
                seen |= {identity for identity, _ in new}

    def series(self, study: str = "", series: str = "") -> list[Dataset]:
        """Series of all studies, of one study, or the one of a UID, as the server lists them now.

        Every row has a StudyInstanceUID and a SeriesInstanceUID; all else may be absent.
        """
        keywords: dict[str, Any] = {"fields": FIELDS}
        if series:
            keywords["search_filters"] = {"SeriesInstanceUID": series}
        if study:
            rows = self._search("listing series", self._client.search_for_series, study_instance_uid=study, **keywords)
        else:
            try:
                rows = self._search("listing series", self._client.search_for_series, **keywords)
            except ObjectError as error:
                return self._by_study(series, error)
            if not all(row.get("StudyInstanceUID") for row in rows):
                return self._by_study(series, ObjectError(f"{self.url}: series are listed without their studies"))
        for row in rows:
            if study and not row.get("StudyInstanceUID"):  # which a server need not repeat
                row.StudyInstanceUID = study
        rows = [row for row in rows if row.get("SeriesInstanceUID") and row.get("StudyInstanceUID")]
        return [row for row in rows if not series or str(row.SeriesInstanceUID) == series]

    def _by_study(self, series: str, error: ObjectError) -> list[Dataset]:
        """As `series`, where the server offers no search over the series of all studies (PS3.18 10.6.1.1)."""
        try:
            studies = self.studies()
        except ArchiveError:
            raise error from None
        return [row for study in studies for row in self.series(str(study.StudyInstanceUID), series)]

    def studies(self, study: str = "") -> list[Dataset]:
        """All studies, or one: its StudyInstanceUID and its PatientID."""
        filters = {"search_filters": {"StudyInstanceUID": study}} if study else {}
        rows = self._search(
            "listing studies", self._client.search_for_studies, fields=["PatientID", "StudyInstanceUID"], **filters
        )
        return [row for row in rows if row.get("StudyInstanceUID") and study in ("", str(row.StudyInstanceUID))]

    def instances(self, study: str, series: str) -> list[str]:
        """SOPInstanceUIDs of a series."""
        rows = self._search(
            f"listing images of series {series}",
            self._client.search_for_instances,
            study_instance_uid=study,
            series_instance_uid=series,
        )
        return [str(row.SOPInstanceUID) for row in rows]

    def header(self, study: str, series: str, instance: str) -> Dataset:
        """One image without its pixels."""
        with self._asking(f"reading the header of {instance}", f"series {series} is no longer there"):
            found = self._client.retrieve_instance_metadata(study, series, instance)
            return _dataset(found)

    def headers(self, study: str, series: str) -> list[Dataset]:
        """All images of a series without their pixels."""
        with self._asking(f"reading the headers of series {series}", "the series is no longer there"):
            return [_dataset(dataset) for dataset in self._client.retrieve_series_metadata(study, series)]

    def images(self, study: str, series: str) -> list[Dataset]:
        """All images of a series."""
        with self._asking(f"downloading series {series}", "the series is no longer there"):
            return list(self._client.retrieve_series(study, series, media_types=ANY_SYNTAX))

    def image(self, study: str, series: str, instance: str) -> Dataset:
        """One image, whole."""
        with self._asking(f"downloading {instance}", "it is no longer there"):
            return self._client.retrieve_instance(study, series, instance, media_types=ANY_SYNTAX)

    def store(self, image: Dataset) -> None:
        """Store one object; it is there when this returns.

        Raises:
            ArchiveError: the server refused it, with its reason code (PS3.18 table 10.5.3-1).
        """
        what = f"storing {image.SOPInstanceUID}"
        with self._asking(what):
            answer = self._client.store_instances([image])
            failed = answer.get("FailedSOPSequence") if answer is not None else None
        if failed:
            raise ArchiveError(f"{self.url}: {what} failed: refused with reason {failed[0].get('FailureReason')}")
        self.header(str(image.StudyInstanceUID), str(image.SeriesInstanceUID), str(image.SOPInstanceUID))


def _identity(row: Dataset) -> str:
    """What tells a row of a list from all others."""
    keys = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    uids = [str(row.get(key, "") or "") for key in keys]
    return "|".join(uids) if any(uids) else row.to_json()


def _without_bulk(tag: str, vr: str, uri: str) -> None:
    """Pixels and other bulk data stay where they are."""


# pydicom asks for it at every attribute; worked out anew each time it takes longer than all the rest
_without_bulk.__signature__ = inspect.signature(_without_bulk)  # type: ignore[attr-defined]


def _dataset(found: Any) -> Dataset:
    """A DICOM JSON object (PS3.18 F.2) without bulk data; single attributes that break their VR are left out."""
    try:
        return Dataset.from_json(found, bulk_data_uri_handler=_without_bulk)
    except NO_DICOM:
        if not isinstance(found, dict):
            raise
    result, last = Dataset(), None
    for tag, content in found.items():
        try:
            result.update(Dataset.from_json({tag: content}, bulk_data_uri_handler=_without_bulk))
        except NO_DICOM as error:
            last = error
    if not len(result):
        raise last or ValueError("an object without attributes")
    return result
