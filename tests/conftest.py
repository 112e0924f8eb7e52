"""No test may touch what the reader who runs it has solved."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def progress_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGLEARN_PROGRESS", str(tmp_path_factory.mktemp("progress")))
        yield
