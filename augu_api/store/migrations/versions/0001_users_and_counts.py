"""Users and counts."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("flags", sa.Integer, nullable=False),
        sa.Column("coefficient", sa.Float, nullable=False),
        sa.Column("issued_at", sa.BigInteger, nullable=False),
        sa.Column("banned_until", sa.Float),
    )
    op.create_table(
        "counts",
        sa.Column("key", sa.String(200), primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("counts")
    op.drop_table("users")
