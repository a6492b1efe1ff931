package group

// BeginEmpty is temporary.
func (l *Log) BeginEmpty() error { return l.Bootstrap(0, 0) }
