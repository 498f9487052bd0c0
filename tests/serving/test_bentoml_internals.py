"""Contract tests of BentoML's private names, one for each: an upgrade of BentoML breaks here first."""

import inspect
from pathlib import Path

import pytest
from bentoml.images import Image

from serving import bentoml_internals
from serving.bentoml_internals import BentoMLContainer


def test_worker_index_is_none_outside_a_worker() -> None:
    assert bentoml_internals.worker_index() is None


def test_do_not_track_is_cached_and_can_be_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_DO_NOT_TRACK", "True")
    bentoml_internals.reread_do_not_track()
    assert bentoml_internals.usage_stats.do_not_track() is True


def test_the_configured_address_has_host_and_port() -> None:
    host, port = bentoml_internals.configured_address()
    assert (isinstance(host, str), isinstance(port, int)) == (True, True)


def test_the_store_of_bentos_is_below_the_home() -> None:
    assert bentoml_internals.bento_store().parent == bentoml_internals.home()


def test_the_tracer_starts_spans() -> None:
    bentoml_internals.tracer("a test").start_span("a span").end()


def test_the_folder_of_metrics_can_be_set(tmp_path: Path) -> None:
    bentoml_internals.set_metrics_folder(tmp_path)
    try:
        assert BentoMLContainer.prometheus_multiproc_dir.get() == str(tmp_path)
    finally:
        BentoMLContainer.prometheus_multiproc_dir.reset()


def test_the_client_of_metrics_works_without_files() -> None:
    assert isinstance(bentoml_internals.PrometheusClient(multiproc=False).generate_latest(), bytes)
    assert hasattr(BentoMLContainer.metrics_client, "set")


def test_serve_http_calls_the_function_that_makes_its_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    from bentoml._internal.utils import circus

    monkeypatch.setattr(circus, "create_standalone_arbiter", circus.create_standalone_arbiter)  # restored at the end
    create = lambda *_, **__: None  # noqa: E731 - compared by identity
    assert bentoml_internals.replace_arbiter(create)
    assert circus.create_standalone_arbiter is create


def test_circus_has_both_kinds_of_supervisors() -> None:
    from bentoml._internal.utils import circus

    assert issubclass(circus.ThreadedArbiter, circus.Arbiter)


def test_the_bentofile_selects_the_files_to_pack(checkout: Path) -> None:
    files = set(bentoml_internals.packed_files(checkout, "bentofile.yaml"))
    assert {"service.py", "serving/pack.py", "pipeline/params.py"} <= files
    assert "pipeline/promote.py" not in files


def test_the_specification_is_an_attrs_class_that_renders_itself() -> None:
    specification = bentoml_internals.OpenAPISpecification
    assert {"tags", "info", "openapi"} <= {field.name for field in specification.__attrs_attrs__}
    assert callable(specification.asdict)


def test_bentoml_adds_the_middleware_whose_timer_leaks() -> None:
    assert "timeout" in inspect.signature(bentoml_internals.TimeoutMiddleware).parameters


def test_an_image_writes_its_requirements_with_the_method_that_is_overridden() -> None:
    original = inspect.signature(Image._freeze_python_requirements)
    overridden = inspect.signature(bentoml_internals.OwnRequirementsImage._freeze_python_requirements)
    assert list(original.parameters) == list(overridden.parameters)
