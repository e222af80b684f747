//! What is optimised: objectives, the LM-head loss, and small worlds where the data distribution is known.
