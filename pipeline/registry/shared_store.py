"""BentoML's model store as one of several projects uses it; its folder `.registry` records who uses which version."""

from collections.abc import Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline import params, paths
from pipeline.registry import bentoml_store, projects, versions
from pipeline.registry.history import History, known_tags


@dataclass(frozen=True)
class ProjectSettings:
    """A project's root and its section `registry` of params.yaml, which is read when it is first needed."""

    root: Path
    given_name: str | None = None

    @cached_property
    def _params(self) -> params.Registry:
        return params.load(self.root / paths.PARAMS).registry

    @property
    def folder(self) -> Path:
        """The project's folder `registry/`."""
        return self.root / paths.REGISTRY

    @property
    def name(self) -> str:
        """The name of the versions."""
        return self.given_name or self._params.name

    @property
    def keep(self) -> int:
        """How many of the last champions are never deleted."""
        return self._params.keep


class SharedStore:
    """The store as the project with these settings uses it."""

    def __init__(self, settings: ProjectSettings) -> None:
        """Touch nothing yet."""
        self._settings = settings

    @property
    def name(self) -> str:
        """The name of this project's versions."""
        return self._settings.name

    @property
    def folder(self) -> Path:
        """The folder in which the store keeps what the registries need."""
        return bentoml_store.home() / ".registry"

    @property
    def project_id(self) -> str:
        """The id of the project."""
        return projects.project_id(self._project_folder)

    @property
    def trash(self) -> Path:
        """Where versions are renamed to before they are deleted."""
        return self.folder / "deleted" / self.project_id

    @property
    def _project_folder(self) -> Path:
        return self._settings.folder.resolve()

    def identify(self) -> None:
        """Record a new, moved or copied project, and take over what an older release left half deleted."""
        projects.identify(self.folder, self._project_folder)
        legacy_trash = self.folder / "deleted" / projects.legacy_id(self._project_folder)
        if legacy_trash.exists() and not self.trash.exists():
            legacy_trash.rename(self.trash)

    def used_tags(self) -> frozenset[str]:
        """Return the tags that the store records for this project."""
        project = projects.read(self.folder, self.project_id)
        if project and project.tags is not None:
            return project.tags
        # The store of an older release records the project's folder in each version that it added.
        folder = str(self._project_folder)
        tags = [f"{self.name}:{path.name}" for path in bentoml_store.models(self.name).glob("*/")]
        records = {tag: versions.find_record(tag) for tag in tags}
        return frozenset(tag for tag, record in records.items() if record and record.registry == folder)

    def record_use(self, tags: Set[str]) -> None:
        """Record the tags that this project uses: before it uses a version, and after it has deleted one."""
        projects.write(self.folder, projects.identify(self.folder, self._project_folder), tags)

    def other_user(self, tag: str) -> str:
        """Return, as a clause, that another project uses a version or may use it; empty where none does."""
        for project in projects.others(self.folder, self.project_id):
            tags = project.tags
            if tags is None and project.exists():  # of an older release, which recorded its folder alone
                tags = frozenset(known_tags(History(project.folder).entries()))
            if tags is None or tag in tags:
                return project.describe_use(is_certain=tags is not None)
        return ""

    def forget(self, folder: Path) -> list[str]:
        """Forget the projects that were in `folder`; return the versions in the store that nobody uses now."""
        gone = projects.forget(self.folder, folder)
        tags = {tag for project in gone for tag in project.tags or ()} - self.used_tags()
        return sorted(tag for tag in tags if bentoml_store.version_folder(tag).is_dir() and not self.other_user(tag))
