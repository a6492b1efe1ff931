package mvcc

// Scrubbed is temporary.
func (in *Ingest) Scrubbed() int64 { return in.scrubbed }
