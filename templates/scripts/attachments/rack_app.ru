# One page that says which server answered, and counts clicks in one row of the database.
require "erb"
require "mysql2"
require "socket"

# One connection per thread, opened when first needed and again when it broke.
def database
  Thread.current[:database] ||= Mysql2::Client.new(
    host: ENV.fetch("DB_HOST"), username: ENV.fetch("DB_USER"), password: ENV.fetch("DB_PASSWORD"),
    database: ENV.fetch("DB_NAME"), sslca: ENV.fetch("DB_CA"), ssl_mode: :verify_identity,
    connect_timeout: 3, read_timeout: 10, write_timeout: 10
  )
end

def with_database
  yield database
rescue Mysql2::Error
  Thread.current[:database]&.close
  Thread.current[:database] = nil
  raise
end

def clicks
  attempts = 0
  begin
    with_database { |connection| connection.query("SELECT clicks FROM counter WHERE id = 1").first&.fetch("clicks") || 0 }
  rescue Mysql2::Error
    # A kept connection may have died with the old primary; reading once more is harmless.
    (attempts += 1) < 2 ? retry : raise
  end
end

def count_one
  with_database do |connection|
    connection.query("INSERT INTO counter (id, clicks) VALUES (1, 1) ON DUPLICATE KEY UPDATE clicks = clicks + 1")
  end
end

def page(state)
  <<~HTML
    <!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>#{ERB::Util.h(ENV.fetch("SERVER_NAME"))}</title>
    <style>body { font: 1.1rem/1.6 system-ui, sans-serif; margin: 15vh auto; max-width: 30rem; padding: 0 1rem }</style>
    <h1>It works</h1>
    <p>Answered by <b>#{ERB::Util.h(ENV.fetch("SERVER_NAME"))}</b>, process #{Process.pid}.</p>
    <p>#{state}</p>
    <form method="post" action="/"><button>Count one more</button></form></html>
  HTML
end

HTML = { "content-type" => "text/html; charset=utf-8", "cache-control" => "no-store" }.freeze
TEXT = { "content-type" => "text/plain" }.freeze

run lambda { |env|
  case [env["REQUEST_METHOD"], env["PATH_INFO"]]
  in ["GET" | "HEAD", "/up"]
    [200, TEXT.dup, ["up\n"]]
  in ["GET" | "HEAD", "/"]
    begin
      [200, HTML.dup, [page("Clicks counted in the database: #{clicks}.")]]
    rescue Mysql2::Error => error
      [500, HTML.dup, [page("The database does not answer: #{ERB::Util.h(error.message)}")]]
    end
  in ["POST", "/"]
    count_one
    [303, { "location" => "/" }, []]
  else
    [404, TEXT.dup, ["nothing here\n"]]
  end
}
