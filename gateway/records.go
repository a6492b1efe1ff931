package gateway

import "github.com/pebbledash/pebbledash/storage/alarm"

// RecordsChanged is told of every change of the cluster's records (member.Config). It
// does not wait.
func (s *Server) RecordsChanged(table string) {
	switch table {
	case alarm.Table:
		s.alarms.load()
	case authTable:
		s.auth.forget()
	}
}

// ReadRecords is RecordsChanged of every table: to be called once the changes are told,
// for those before.
func (s *Server) ReadRecords() {
	s.alarms.load()
	s.auth.forget()
}
