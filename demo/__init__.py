"""A page that runs the network in a browser, with no server behind it. `page/` is what a person sees; `build.py` puts
it together with an exported network and the package that runs it."""
