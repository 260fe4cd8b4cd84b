"""Which home a project is of."""

from alembic import op

from dl_pipelines.store.tables import project_homes

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the table of version 3."""
    project_homes.create(op.get_bind())
