"""Bring a finished run to the Hub: python push_to_hub.py DIR --repo_id user/name [--private] [--dry_run] …"""

from slimresnet.cli.push_to_hub import main

if __name__ == "__main__":
    main()
