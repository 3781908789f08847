"""Train, measure, share and use small residual networks; the network itself is `modeling_slimresnet`."""
