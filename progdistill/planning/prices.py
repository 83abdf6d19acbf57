"""What an hour of a device costs, from the user's own table in `progdistill.toml`."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, ValidationError

from progdistill.errors import UsageError
from progdistill.options import DEFAULTS_FILE, PRICES_TABLE, read_defaults_file


class Prices(BaseModel):
    """Prices by the name of the device, as checkpoints record it; "cpu" is one process on CPU cores."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    currency: str = ""
    per_device_hour: dict[str, NonNegativeFloat] = {}


def read_prices(path: Path = Path(DEFAULTS_FILE)) -> Prices:
    """The table `[prices]` of a file: `currency`, and a price for each device; empty where there is none."""
    found = read_defaults_file(path).get(PRICES_TABLE, {})
    if not isinstance(found, dict):
        raise UsageError(f"{path}: prices = {found!r}: write a table [prices], with a price for each device")
    table: dict[str, Any] = dict(found)
    currency = table.pop("currency", "")
    try:
        return Prices(currency=currency, per_device_hour=table)
    except ValidationError as error:
        first = error.errors()[0]
        name = first["loc"][-1]
        raise UsageError(f"{path}: prices: {name} = {first['input']!r}: {first['msg']}") from None
