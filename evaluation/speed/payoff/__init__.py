"""Whether a pair pays off: what speed each rule would reach, from measured step times and recorded decisions."""
