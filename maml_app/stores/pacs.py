"""The DICOMweb services that the app uses (PS3.18: QIDO-RS, WADO-RS, STOW-RS), with failures in plain words."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
from dicomweb_client.web import DICOMwebClient
from pydicom.dataset import Dataset
from requests.adapters import HTTPAdapter

from maml_app.errors import ArchiveError

PAGE = 1000
TIMEOUT_S = (10, 300)  # to connect, and between two bytes of an answer
FIELDS = ["PatientID", "StudyDate", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "SeriesDescription"]
FIELDS += ["SeriesNumber", "NumberOfSeriesRelatedInstances"]
ANY_SYNTAX = (("application/dicom", "*"),)  # as stored: nothing is decoded and encoded again on the way


class _Adapter(HTTPAdapter):
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
        made.mount(scheme, _Adapter(pool_maxsize=16))
    return made


class Pacs:
    """A DICOMweb server at an address such as http://127.0.0.1:8042/dicom-web. Every method raises ArchiveError."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        logging.getLogger("dicomweb_client.web").setLevel(logging.WARNING)  # it logs every request as information
        self._client = DICOMwebClient(url=self.url, session=session())
        self._client.set_http_retry_params(retry=False)

    @contextmanager
    def _asking(self, what: str, gone: str = "") -> Iterator[None]:
        try:
            yield
        except requests.exceptions.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status in (401, 403):
                names = "MONAI_LABEL_DICOMWEB_USERNAME and MONAI_LABEL_DICOMWEB_PASSWORD"
                why = f"it refused the user ({status}); set {names}"
            elif status == 404:
                why = gone or "there is no DICOMweb service at this address (404)"
            else:
                text = error.response.text.strip()[:200] if error.response is not None else ""
                why = f"it answered {status} {text}".strip()
            raise ArchiveError(f"{self.url}: {what} failed: {why}") from None
        except requests.exceptions.ConnectionError as error:
            why = "the connection broke off" if "Connection broken" in str(error) else "it cannot be reached"
            raise ArchiveError(f"{self.url}: {what} failed: {why}; is the archive running?") from None
        except requests.exceptions.RequestException as error:
            no_json = isinstance(error, requests.exceptions.JSONDecodeError)
            expected = "expected DICOM, got something else: " if no_json else ""
            raise ArchiveError(f"{self.url}: {what} failed: {expected}{error}") from None
        except (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            OSError,
        ) as error:  # what answers that are no DICOM end in
            raise ArchiveError(f"{self.url}: {what} failed: expected DICOM, got something else: {error}") from None

    def _search(self, what: str, search: Any, **keywords: Any) -> list[Dataset]:
        """All pages of a search. A page that begins like the last one means that the server knows no paging."""
        found: list[Dataset] = []
        with self._asking(what):
            while True:
                page = search(offset=len(found), limit=PAGE, **keywords) or []
                rows = [Dataset.from_json(row) for row in page]
                if found and rows and rows[0] == found[0]:
                    return found
                found += rows
                if len(page) < PAGE:
                    return found

    def series(self, study: str = "", series: str = "") -> list[Dataset]:
        """Series of all studies, of one study, or the one of a UID, as the server lists them now."""
        keywords: dict[str, Any] = {"fields": FIELDS}
        if study:
            keywords["study_instance_uid"] = study
        if series:
            keywords["search_filters"] = {"SeriesInstanceUID": series}
        return self._search("listing series", self._client.search_for_series, **keywords)

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
            return _without_bulk(found)

    def headers(self, study: str, series: str) -> list[Dataset]:
        """All images of a series without their pixels."""
        with self._asking(f"reading the headers of series {series}", "the series is no longer there"):
            return [_without_bulk(one) for one in self._client.retrieve_series_metadata(study, series)]

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


def _without_bulk(found: dict[str, Any]) -> Dataset:
    return Dataset.from_json(found, bulk_data_uri_handler=lambda *_: None)
