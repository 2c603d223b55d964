#!/usr/bin/ruby
# Written by relaunch: script install_app.sh. Change the script, not this file.
#
# database wait SECONDS                 until the primary accepts writes
# database migrated DIRECTORY           exit 0 when every migration in DIRECTORY has been run
# database new                          exit 0 when no migration has been run yet
# database locked NAME COMMAND…         runs COMMAND while no other server runs one under this NAME
# database sql FILE                     runs the statements of FILE
#
# Where the database is comes from the environment: DB_HOST DB_NAME DB_USER DB_PASSWORD DB_CA.
require "mysql2"

def connect(**more)
  Mysql2::Client.new(host: ENV.fetch("DB_HOST"), username: ENV.fetch("DB_USER"), password: ENV.fetch("DB_PASSWORD"),
                     database: ENV.fetch("DB_NAME"), sslca: ENV.fetch("DB_CA"), ssl_mode: :verify_identity,
                     connect_timeout: 3, read_timeout: 900, **more)
end

def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)

def wait(seconds)
  started = now
  begin
    return if connect.query("SELECT @@read_only AS it").first["it"].zero?

    why = "it takes no writes yet"
  rescue Mysql2::Error => error
    why = error.message
  end
  abort "#{ENV["DB_NAME"]} on #{ENV["DB_HOST"]} not ready after #{seconds} s: #{why}" if now - started > seconds
  sleep 0.1
  wait(seconds - (now - started))
end

NO_SUCH_TABLE = 1146

def migrations_done
  connect.query("SELECT version FROM schema_migrations").map { |row| row["version"].to_i }
rescue Mysql2::Error => error
  raise unless error.error_number == NO_SUCH_TABLE

  []
end

def migrated?(directory)
  wanted = Dir.children(directory).filter_map { |file| file[/\A(\d+)_.*\.rb\z/, 1]&.to_i }
  (wanted - migrations_done).empty?
end

# The lock lives as long as the connection: a server that dies lets go of it, one that waits gets it then.
def locked(name, command)
  connection = connect
  got = connection.query("SELECT GET_LOCK('#{connection.escape(name)}', 600) AS got").first["got"]
  abort "another server holds the lock #{name} for more than 600 s" unless got == 1
  child = spawn(*command)
  keep_lock(connection, child)
  exit $?.exitstatus || 1
end

def keep_lock(connection, child)
  until Process.wait(child, Process::WNOHANG)
    sleep 0.05
    next unless (@asked ||= now) < now - 5

    @asked = now
    connection.query("SELECT 1")
  end
rescue Mysql2::Error => error
  Process.kill(:TERM, child)
  Process.wait(child)
  abort "lost the lock: #{error.message}"
end

def sql(file)
  connection = connect(flags: Mysql2::Client::MULTI_STATEMENTS)
  connection.query(File.read(file))
  connection.store_result while connection.next_result
end

case ARGV
in ["wait", seconds] then wait(Float(seconds))
in ["migrated", directory] then exit migrated?(directory)
in ["new"] then exit migrations_done.empty?
in ["locked", name, *command] unless command.empty? then locked(name, command)
in ["sql", file] then sql(file)
else abort File.foreach(__FILE__).grep(/^# database/).join
end
