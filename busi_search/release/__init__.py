"""From the best trial to the champion."""
