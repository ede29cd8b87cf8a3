"""The explorer: one page that shows every subnetwork of a decomposition, to be searched, opened and pushed."""

from .compute import explore as explore
from .settings import ExplorerSettings as ExplorerSettings
